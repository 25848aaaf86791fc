"""A Flower client as lean as it can be: data, model and loss are made once per Ray actor.

A module of its own, so that Ray imports it; what stands in the main script is rebuilt from a pickle for every client.
"""

import os

import torch
import workload as w
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

HERE = {}
app = ClientApp()


def kept(name):
    """Data, model and loss of this process, made once."""
    if not HERE:
        torch.set_num_threads(1)
        x, y, rows = w.data()
        HERE.update(x=x, y=y, rows=rows, model=w.module(name), loss=torch.nn.CrossEntropyLoss())
    return HERE


@app.train()
def train(message, context):
    """One local epoch."""
    held = kept(os.environ["BENCH_MODEL"])
    model, loss = held["model"], held["loss"]
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    rows = held["rows"][int(context.node_config["partition-id"])]
    x, y = held["x"][rows], held["y"][rows]
    parameters = list(model.parameters())
    order = torch.randperm(len(rows))
    for index in order.split(w.BATCH):
        gradients = torch.autograd.grad(loss(model(x[index]), y[index]), parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-w.RATE)
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(rows)})}
    )
    return Message(content=content, reply_to=message)
