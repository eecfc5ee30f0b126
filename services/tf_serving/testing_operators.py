"""For tests: a custom operator, compiled against the installed TensorFlow, and a model that uses it.

Needs g++: TensorFlow's own libraries use the GNU C++ library's types in their interface, which other C++
libraries do not have.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from services.tf_serving.execution.runtime import tensorflow

_SOURCE = r"""
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

REGISTER_OP("DlHalfPlus")
    .Attr("plus: float = 2.0")
    .Input("x: float")
    .Output("y: float")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(0));
      return absl::OkStatus();
    });

class HalfPlus : public tensorflow::OpKernel {
 public:
  explicit HalfPlus(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("plus", &plus_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& x = context->input(0);
    tensorflow::Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    const auto from = x.flat<float>();
    auto to = y->flat<float>();
    for (int64_t i = 0; i < from.size(); ++i) to(i) = from(i) / 2 + plus_;
  }

 private:
  float plus_;
};

REGISTER_KERNEL_BUILDER(Name("DlHalfPlus").Device(tensorflow::DEVICE_CPU), HalfPlus);

}  // namespace
"""

_COMPILE_S = 240
"""The headers take g++ some seconds on an idle core."""


def compile_operator(folder: Path) -> Path:
    """The shared library of the operator DlHalfPlus: x float of any shape to y = x / 2 + plus.

    Raises:
        RuntimeError: there is no g++, or it failed; with what it said.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("no g++ was found: on Debian, apt-get install g++")
    tf = tensorflow()
    source, library = folder / "half_plus.cc", folder / "half_plus.so"
    source.write_text(_SOURCE, encoding="utf-8")
    command = [compiler, "-shared", "-fPIC", "-O0", "-w", *tf.sysconfig.get_compile_flags(), str(source)]
    command += ["-o", str(library), *tf.sysconfig.get_link_flags()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"g++ ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
    return library


def save_custom(library: str, path: str) -> None:
    """A model whose one signature, x float (-1, 1) to y, is the operator with plus = 2. Loads the library
    into this process."""
    tf = tensorflow()
    operators: Any = tf.load_op_library(library)

    class Custom(tf.Module):  # type: ignore[misc, name-defined]
        pass

    function = tf.function(
        lambda x: {"y": operators.dl_half_plus(x, plus=2.0)},
        input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")],
    )
    tf.saved_model.save(Custom(), path, signatures={"serving_default": function.get_concrete_function()})
