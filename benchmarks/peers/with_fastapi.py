"""A SavedModel behind FastAPI: plain functions, which FastAPI runs in its pool of threads, and models of pydantic.

SAVED_MODEL=DIRECTORY python -m uvicorn --app-dir=benchmarks/peers with_fastapi:app --port=PORT --no-access-log
"""

import os

import tensorflow as tf
from fastapi import FastAPI
from pydantic import BaseModel

run = tf.saved_model.load(os.environ["SAVED_MODEL"]).signatures["serving_default"]
app = FastAPI()


class Numbers(BaseModel):
    x: list[float]


class Images(BaseModel):
    x: list[list[list[list[float]]]]


class Answer(BaseModel):
    y: list[float]


@app.post("/vector")
def predict_numbers(request: Numbers) -> Answer:
    return Answer(y=run(x=tf.constant(request.x))["y"].numpy().tolist())


@app.post("/image")
def predict_images(request: Images) -> Answer:
    return Answer(y=run(x=tf.constant(request.x))["y"].numpy().tolist())
