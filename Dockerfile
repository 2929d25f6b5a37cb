# One image for the launcher and the workers. Any base with Python 3.11 will do:
#   make image                                            CPU
#   make image ACCELERATOR=gpu                            CUDA and NCCL from the package registry; the host brings the driver
#   make image BASE=registry.example/python-cuda:3.11     a base of your own
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG ACCELERATOR=cpu
WORKDIR /opt/convoy
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN python3.11 -m venv .venv
COPY requirements.lock requirements-gpu.lock ./
# The lock is complete and hashed: pip resolves nothing. Bytecode is compiled once, here (TensorFlow imports three times faster).
RUN case "${ACCELERATOR}" in \
      cpu) lock=requirements.lock ;; \
      gpu) lock=requirements-gpu.lock ;; \
      *) echo "ACCELERATOR=${ACCELERATOR} - there are two kinds of image - cpu or gpu" >&2; exit 1 ;; \
    esac \
    && .venv/bin/python -m pip install --no-cache-dir --no-compile --no-deps --require-hashes -r "${lock}" \
    && { .venv/bin/python -m compileall -qq -j 0 .venv/lib >/dev/null 2>&1 || true; }
COPY pyproject.toml LICENSE README.md ./
COPY conf conf
COPY storage storage
COPY data_pipeline data_pipeline
COPY trainer trainer
COPY launcher launcher
RUN .venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation \
      --config-settings editable_mode=compat --editable . \
    && .venv/bin/python -m compileall -qq conf storage data_pipeline trainer launcher

FROM ${BASE}
RUN useradd --uid 1000 --create-home convoy && install -d -o convoy -g convoy /work
COPY --from=build /opt/convoy /opt/convoy
ENV PATH=/opt/convoy/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000
WORKDIR /work
# Exec form: signals reach Convoy itself, which saves and stops.
ENTRYPOINT ["convoy"]
