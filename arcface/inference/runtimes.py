"""Exported models opened in the runtimes that they are for; each as a function from its input to float32 embeddings [n, D]."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle

from arcface.system.startup import threads

Run = Callable[[np.ndarray], np.ndarray]


def with_paddle_inference(model: Path) -> Run:
    config = paddle.inference.Config(str(model), str(model.with_suffix(".pdiparams")))
    config.disable_gpu()
    config.disable_glog_info()
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(threads())
    predictor = paddle.inference.create_predictor(config)
    read_in = predictor.get_input_handle(predictor.get_input_names()[0])
    read_out = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(images: np.ndarray) -> np.ndarray:
        read_in.reshape(images.shape)
        read_in.copy_from_cpu(images)
        predictor.run()
        return read_out.copy_to_cpu()

    return run


def with_onnxruntime(model: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.enable_cpu_mem_arena = False  # it would outlive the session
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


def with_openvino(model: Path) -> Run:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads()}  # else bfloat16 where a processor has it
    request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()
    return lambda images: request.infer(images)[0].copy()
