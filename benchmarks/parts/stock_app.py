"""The files of a Flower app with all defaults: FedAvg without training, with arrays of an adapter's size."""

from __future__ import annotations

STOCK_APP = {
    "pyproject.toml": """
[project]
name = "stockapp"
version = "1.0.0"
description = "FedAvg without training"
license = "Apache-2.0"
dependencies = []
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "stockapp.server_app:app"
clientapp = "stockapp.client_app:app"
[tool.flwr.app.config]
out = ""
rounds = 1
nodes = 1
bytes = 1
""",
    "stockapp/__init__.py": "",
    "stockapp/client_app.py": """
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)
""",
    "stockapp/server_app.py": """
import json
import time

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    began: list = []

    def configure_train(self, *arguments, **keywords):
        self.began.append(time.monotonic())
        return super().configure_train(*arguments, **keywords)


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes = int(config["nodes"])
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    arrays = ArrayRecord([np.zeros(int(config["bytes"]) // 4, np.float32)])
    strategy.start(grid, arrays, num_rounds=int(config["rounds"]))
    ends = [*strategy.began[1:], time.monotonic()]
    seconds = [end - begin for begin, end in zip(strategy.began, ends)]
    with open(config["out"], "w") as file:
        json.dump(seconds, file)
""",
}
