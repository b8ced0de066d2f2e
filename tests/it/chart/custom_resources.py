"""Checks the Prometheus operator's resources in a rendered chart, which the schemas of Kubernetes do not know: types, and that
no field is there that the operator does not know."""

import sys

import yaml
from cloudcoil.models.prometheus_operator import v1


def unknown(given, known, path):
    """The fields of `given` that the model dropped, as paths."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name not in known:
                yield f"{path}.{name}"
            else:
                yield from unknown(value, known[name], f"{path}.{name}")
    elif isinstance(given, list) and isinstance(known, list):
        for place, (value, kept) in enumerate(zip(given, known)):
            yield from unknown(value, kept, f"{path}[{place}]")


failures, seen = [], 0
for resource in yaml.safe_load_all(sys.stdin):
    if resource and resource["apiVersion"] == "monitoring.coreos.com/v1":
        seen += 1
        model = getattr(v1, resource["kind"]).model_validate(resource)
        kept = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
        failures += unknown(resource, kept, resource["kind"])
for failure in failures:
    print(f"{failure} is no field of the Prometheus operator")
print(f"{seen} resources")
sys.exit(1 if failures else 0)
