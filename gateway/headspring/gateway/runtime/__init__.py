"""Puts an installation together: settings, backends, stages, servers.

`embedded` and `distributed` are the only modules that name technologies.
"""

ROLES = {
    "ingestion": "takes telemetry, alerts and changes in; spools them while Kafka is away",
    "windows": "features of metrics and spans",
    "detect": "alerts from features",
    "correlate": "incidents from alerts",
    "diagnose": "causes of incidents",
    "act": "plans, approved runs, notifications",
    "store": "fills series, documents, topology and labels",
    "gateway": "API, web UI, approvals",
}
"""Roles of the distributed shape, in the order of the flow."""
