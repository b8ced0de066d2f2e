"""Reads a compose file on standard input as the Compose specification has it, and checks that what its services name is there.
Prints each service with its variables, one `service NAME` a line."""

import sys

from compose_spec import PyCompose

compose = PyCompose.from_yaml(sys.stdin.read())
for check in (compose.validate, compose.validate_networks, compose.validate_volumes, compose.validate_configs, compose.validate_secrets):
    check()
services = compose.to_dict()["services"]
for name, service in services.items():
    for needed in service.get("depends_on", {}):
        assert needed in services, f"{name} depends on {needed}, which is no service"
    for variable in service.get("environment") or {}:
        print(name, variable)
