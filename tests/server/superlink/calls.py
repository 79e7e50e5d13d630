"""Calls that the gateway forwards, and those that try to get behind it."""

from __future__ import annotations

FLEET = [
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "get-fab",
    "get-run",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "send-node-heartbeat",
]


HIDDEN = [
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/control/list-nodes",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/v1/runtime/pull-messages",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/",
    "/v1/fleet",
    "/",
    "/health",
    "/docs",
    "/openapi.json",
]
TRICKS = [
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol%2flist-runs",
    "/v1/fleet/get-run/../../control/list-runs",
    "/v1/fleet/get-run/",
    "//v1/fleet/get-run",
    "/v1/fleet//get-run",
    "/v1/./fleet/get-run",
    "/v1/fleet/get-run?x=/v1/control/list-runs",
    "/v1/fleet/get-run;x",
    "/v1/fleet/get-run%00",
    "/v1/fleet/get-ru%6e",
    "/V1/FLEET/GET-RUN",
    "/v1/fleet\\..\\control\\list-runs",
    "http://127.0.0.1/v1/control/list-runs",
    "http://127.0.0.1/v1/fleet/get-run",
    "//control/list-runs",
    "*",
]
