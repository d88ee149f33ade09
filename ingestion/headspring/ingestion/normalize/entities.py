"""Who telemetry is about: entity ids from resources, labels and client spans.

Sources: OpenTelemetry semantic conventions (service, k8s, host, db, messaging, peer attributes) and the
label conventions of Prometheus, kube-state-metrics, cAdvisor and the OTLP-to-Prometheus mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from headspring.proto.ids import DEFAULT_NAMESPACE, ENTITY_KINDS, entity_id, split_entity

_SERVICE_LABELS = (
    "service", "service_name", "service.name", "app", "app_kubernetes_io_name", "application", "deployment",
    "statefulset", "daemonset", "container",
)  # fmt: skip
_WORKLOAD_LABELS = ("deployment", "statefulset", "daemonset", "container", "service", "app")
"""For metrics that one exporter reports about others (cAdvisor, kube-state-metrics): there `service` and
`job` name the exporter."""
_ABOUT_OTHERS = ("container_", "kube_", "k8s.", "k8s_")
_ABOUT_HOSTS = ("node_", "windows_", "system.", "system_")
_NAMESPACE_LABELS = ("service_namespace", "service.namespace", "namespace", "k8s_namespace_name", "k8s.namespace.name")
_HOST_LABELS = ("host", "host_name", "host.name", "node", "nodename", "hostname")
_POD_SUFFIX = re.compile(r"(-[a-f0-9]{6,10})?-[a-z0-9]{5}$|-\d+$")
"""What ReplicaSets (hash, random) and StatefulSets (ordinal) add to a workload's name."""
_DNS_NAME = re.compile(r"^(?P<name>[a-z][a-z0-9-]{0,62})(\.(?P<namespace>[a-z0-9-]{1,63})\.svc(\.[a-z0-9.-]+)?)?$")
"""One label, or Kubernetes' service.namespace.svc[.domain]; never an address of digits or a public name."""
_MAX_NAME_CHARS = 256
_NO_CONTAINER = frozenset({"", "POD"})
_CACHES = frozenset({"redis", "memcached", "valkey", "hazelcast", "dragonfly"})


def of_resource(attributes: Mapping[str, str]) -> str:
    """Entity of an OpenTelemetry resource; "" where it names neither service, workload nor host."""
    namespace = namespace_of(attributes)
    for name in (
        "service.name", "k8s.deployment.name", "k8s.statefulset.name", "k8s.daemonset.name", "container.name",
        "faas.name",
    ):  # fmt: skip
        if attributes.get(name, "").strip():
            return _entity("service", attributes[name], namespace)
    if attributes.get("k8s.pod.name", "").strip():
        return _entity("service", workload_of_pod(attributes["k8s.pod.name"]), namespace)
    for name in ("host.name", "k8s.node.name", "host.id"):
        if attributes.get(name, "").strip():
            return _entity("host", attributes[name])
    return ""


def instance_of(attributes: Mapping[str, str]) -> str:
    """The running instance a resource names: instance id, pod or host; "" none."""
    for name in ("service.instance.id", "k8s.pod.name", "container.id", "host.name"):
        if attributes.get(name):
            return attributes[name]
    return ""


def of_labels(labels: Mapping[str, str], metric: str = "") -> str:
    """Entity of a Prometheus sample or an alert; "" where no label names one.

    `instance` stays a label: it is one of many that a service runs as.

    >>> of_labels({"job": "shop/payment", "instance": "10.0.0.7:8080"})
    'service:shop/payment'
    >>> of_labels({"job": "node", "instance": "web-1:9100"}, "node_load1")
    'host:default/web-1'
    """
    stated = labels.get("entity", "")
    if stated and _is_entity(stated):
        return stated
    if metric.startswith(_ABOUT_HOSTS):
        host = _first(labels, _HOST_LABELS) or host_of(labels.get("instance", ""))
        if host:
            return _entity("host", host)
    namespace = namespace_of(labels)
    name = _first(labels, _WORKLOAD_LABELS if metric.startswith(_ABOUT_OTHERS) else _SERVICE_LABELS)
    if name:
        return _entity("service", name, namespace)
    pod = labels.get("pod", "") or labels.get("pod_name", "")
    if pod.strip():
        return _entity("service", workload_of_pod(pod), namespace)
    host = _first(labels, _HOST_LABELS)
    job = labels.get("job", "").strip()
    if job:
        before, slash, after = job.rpartition("/")
        return _entity("service", after, before) if slash and after and before else _entity("service", job, namespace)
    if host:
        return _entity("host", host)
    if labels.get("instance", "").strip():
        return _entity("host", host_of(labels["instance"]))
    return ""


def namespace_of(attributes: Mapping[str, str]) -> str:
    """`service.namespace`, else the Kubernetes namespace (semantic conventions, "Service attributes on k8s")."""
    return _first(attributes, _NAMESPACE_LABELS) or DEFAULT_NAMESPACE


def workload_of_pod(pod: str) -> str:
    """A pod's workload.

    >>> workload_of_pod("payment-6d4cf56db6-x7k2p"), workload_of_pod("kafka-0")
    ('payment', 'kafka')
    """
    return _POD_SUFFIX.sub("", pod.strip()) or pod.strip()


def host_of(address: str) -> str:
    """The host of `host:port`, `[v6]:port` or a URL.

    >>> host_of("web-1:9100"), host_of("[::1]:9100"), host_of("http://web-1:80/metrics")
    ('web-1', '::1', 'web-1')
    """
    text = address.strip()
    if "://" in text:
        text = text.split("://", 1)[1]
    text = text.split("/", 1)[0]
    if text.startswith("["):
        return text[1:].split("]", 1)[0]
    return text.rsplit(":", 1)[0] if text.count(":") == 1 else text


def peer_of_span(attributes: Mapping[str, str], *, namespace: str = DEFAULT_NAMESPACE) -> str:
    """Entity of the remote side of a client or producer span, "" unknown.

    A name of one label, or one in a cluster's DNS (`payment.shop.svc.cluster.local`), is taken for the service
    of that name: when a server is down, its address is all that is left of it. Where the server's own span
    says otherwise, that wins (`SpanJoin`, `SpanPairing` learn which service answers under which name). Other
    addresses stay unknown.

    >>> peer_of_span({"server.address": "payment", "server.port": "8080"})
    'service:default/payment'
    >>> peer_of_span({"server.address": "10.0.0.7"})
    ''
    """
    service = attributes.get("peer.service") or attributes.get("service.peer.name") or ""
    if service.strip():
        return _entity("service", service, namespace)
    system = (attributes.get("db.system.name") or attributes.get("db.system") or "").strip()
    if system:
        kind = "cache" if system.lower() in _CACHES else "database"
        return _entity(
            kind, _address(attributes) or attributes.get("db.namespace") or attributes.get("db.name") or system
        )
    system = attributes.get("messaging.system", "").strip()
    if system:
        destination = attributes.get("messaging.destination.name") or attributes.get("messaging.destination") or ""
        return _entity("queue", destination.strip() or _address(attributes) or system)
    return _named_by_address(_address(attributes) or host_of(attributes.get("url.full", "")), namespace)


def _named_by_address(address: str, namespace: str) -> str:
    match = _DNS_NAME.match(address.lower())
    if match is None or match["name"] == "localhost":
        return ""
    return _entity("service", match["name"], match["namespace"] or namespace)


def _address(attributes: Mapping[str, str]) -> str:
    for name in ("server.address", "net.peer.name", "network.peer.address", "net.peer.ip"):
        value = attributes.get(name, "").strip()
        if value:
            return value
    return ""


def _first(values: Mapping[str, str], names: tuple[str, ...]) -> str:
    for name in names:
        value = values.get(name, "").strip()
        if value and not (name == "container" and value in _NO_CONTAINER):
            return value
    return ""


def _entity(kind: str, name: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """`entity_id` of a name from outside: one printable line of bounded length."""
    return entity_id(kind, _clean(name) or "unnamed", _clean(namespace))


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:_MAX_NAME_CHARS]).strip()


def _is_entity(text: str) -> bool:
    try:
        kind, _, name = split_entity(text)
    except ValueError:
        return False
    return kind in ENTITY_KINDS and _clean(name) == name
