"""The code that stages and commands import, one package per subject. Importing it sets environment variables.

They must be set here, because TensorFlow, MLflow and the backends of Keras read them while they are imported.
"""

import os

# Read now, because the imports that follow take seconds, during which the parent process may end.
STARTED_BY = os.getppid()

# TensorFlow's native code reads this on import, before any code of a stage could set it. A value that the user has
# exported takes precedence.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Keras would otherwise take its backend from the user's keras.json.
os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"

# Backends read these on start. They allocate GPU memory as needed, so that other processes can use the GPU too, and
# make every operation deterministic.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if os.environ["KERAS_BACKEND"] == "jax":
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")

# MLflow sends usage data to its developers by default, and shows a progress bar even for tiny files.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
