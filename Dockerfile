# An image in which README's commands run: `make demo`, `make test`, and python with every package.
#
#   docker build -t shotcrete .
#   docker run --rm -it --gpus all --shm-size 8g -v "$PWD/data:/opt/shotcrete/data" -v "$PWD/runs:/opt/shotcrete/runs" \
#     shotcrete python train.py semi_mae:digits --run.oracle
#
# The "base" kind of CUDA's images has the CUDA runtime and what the container toolkit asks for; cuBLAS, cuDNN and NCCL
# come with torch's wheels, as requirements.lock has them, so that the larger kinds would hold them twice.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BASE} AS system
# g++ and Python's headers stay in the image: FFCV is compiled once, and Triton and torch.compile compile as they run.
# git says which commit a run is of. The names are those of Debian, too.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates g++ git libturbojpeg0-dev make pkg-config python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/shotcrete

FROM system AS packages
# Only what the packages depend on, so that an edit of the code does not install them again.
COPY Makefile pyproject.toml requirements.lock build-constraints.txt constraints.txt ./
COPY .ci .ci
COPY pipeline/opencv_shim pipeline/opencv_shim
# The user of the last stage cannot write byte code beside the packages: it is made here.
RUN UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1 UV_COMPILE_BYTECODE=1 make setup

FROM system
RUN useradd --create-home --uid 10001 --shell /bin/bash shotcrete \
    && install -d -o shotcrete -g shotcrete /opt/shotcrete data runs \
    && git config --system --add safe.directory /opt/shotcrete
COPY --from=packages /opt/shotcrete/.venv .venv
COPY --chown=shotcrete:shotcrete . .
# A checkout may be younger than the packages' layer; without this, make would set up again.
RUN touch .venv/.ready
ENV PATH=/opt/shotcrete/.venv/bin:$PATH
USER 10001:10001
RUN python -c "import train, pipeline.convert, pipeline.backends.libffcv"
VOLUME ["/opt/shotcrete/data", "/opt/shotcrete/runs"]
CMD ["make", "demo"]
