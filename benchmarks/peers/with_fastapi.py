"""A SavedModel behind FastAPI: synchronous functions, which FastAPI runs in its thread pool, and pydantic models.

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


class Response(BaseModel):
    y: list[float]


@app.post("/vector")
def predict_numbers(request: Numbers) -> Response:
    return Response(y=run(x=tf.constant(request.x))["y"].numpy().tolist())


@app.post("/image")
def predict_images(request: Images) -> Response:
    return Response(y=run(x=tf.constant(request.x))["y"].numpy().tolist())
