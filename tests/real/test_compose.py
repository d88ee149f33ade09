"""The compose file is what its generator makes, and what the Compose specification allows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML
from tests.servers import compose_schema

from headspring.gateway.runtime.config import BY_NAME, ENV_PREFIX
from headspring.gateway.runtime.shape import SHAPE

FOLDER = Path(__file__).resolve().parents[2] / "k8s" / "compose"
pytestmark = pytest.mark.real


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compose_generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def document() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load((FOLDER / "compose.yaml").read_text())
    return found


def test_the_file_is_what_the_generator_makes() -> None:
    assert (FOLDER / "compose.yaml").read_text() == generator().compose()


def test_the_file_keeps_the_schema_of_the_specification() -> None:
    schema = json.loads(compose_schema.prepare().read_text())
    jsonschema.validate(document(), schema)
    broken = document()
    broken["services"]["kafka"]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        jsonschema.validate(broken, schema)


def test_every_role_is_there_with_settings_that_exist_and_what_it_needs() -> None:
    services = document()["services"]
    for shape in SHAPE:
        service = services[shape.name]
        assert set(service["depends_on"]) == set(shape.servers)
        assert set(shape.servers) <= set(services)
        for name in service["environment"]:
            assert name.removeprefix(ENV_PREFIX).lower() in BY_NAME


def test_every_image_is_pinned_and_no_password_stands_in_the_file() -> None:
    for name, service in document()["services"].items():
        image = service["image"]
        assert ":" in image, f"{name} has an image without a version"
        assert not image.endswith(":latest")
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable or variable in ("REDISCLI_AUTH", "NEO4J_AUTH", "HEADSPRING_BOOTSTRAP_KEY"):
                assert ":?set it in .env}" in value
