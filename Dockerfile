# docker build -t lm .                                    # trains and everything else, on CPUs
# docker build -t lm:serve --target serve .               # serves, and no more; see docs/deployment.md
# docker build -t lm:cuda --build-arg VARIANT=cuda .      # for NVIDIA GPUs; run with --gpus all --ipc=host
# docker run --rm -it -v lm-data:/work/data -v lm-runs:/work/checkpoints lm fit gpt-nano
# docker run --rm --init -v lm-runs:/work/checkpoints:ro -p 127.0.0.1:8000:8000 lm:serve checkpoints/gpt-nano
#
# With folders of the host instead of named volumes, add --user "$(id -u):$(id -g)": any user id works.
# `docker stop` lets a run save a checkpoint, and a server answer what it has begun, first; --time gives them
# longer than ten seconds. --init: it can also be stopped while it starts.

# Any image with Python 3.11 or later as `python` and `pip`, and useradd; for cuda also apt-get and Python's headers.
ARG BASE=python:3.11-slim
ARG USER_ID=1000

# The requirements as files of their own, so that the layers below change with them alone, not with all of pyproject.
FROM ${BASE} AS requirements
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# The optional parts of serving; "hf onnx serve" reads ONNX files, too.
ARG SERVE_EXTRAS="hf serve"
COPY pyproject.toml /
RUN cd / && python -c "import os, re, tomllib; \
    pyproject = tomllib.load(open('pyproject.toml', 'rb')); \
    needed, extras = (pyproject['project'][key] for key in ('dependencies', 'optional-dependencies')); \
    wanted = lambda names: needed + [r for name in names.split() for r in extras[name]]; \
    files = {'torch': [r for r in needed if re.match(r'torch\b', r)], 'core': needed, \
      'serve': wanted(os.environ['SERVE_EXTRAS']), 'train': wanted('zst parquet hf lora metrics'), \
      'build': pyproject['build-system']['requires']}; \
    [open(name + '.txt', 'w').write('\n'.join(lines)) for name, lines in files.items()]"

# The package, built where what builds it stays behind.
FROM requirements AS wheel
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN pip install -r /build.txt
COPY pyproject.toml README.md LICENSE /src/
COPY lm /src/lm
COPY configs /src/configs
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /src

# What training and serving share.
FROM ${BASE} AS core
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# cpu or cuda. The package index's own wheel brings gigabytes of CUDA; the one without has an index of its own.
ARG VARIANT=cpu
# Where the CPU wheel is; empty: where pip looks for everything else.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
# Where pip looks for everything else; pip reads these itself.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# A C compiler for cuda, because Triton (torch.compile, FlexAttention) builds its launchers when they are first used.
COPY --from=requirements /torch.txt /opt/lm/
RUN index=; case "$VARIANT" in \
      cpu) index="$CPU_INDEX" ;; \
      cuda) apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
            && rm -rf /var/lib/apt/lists/* ;; \
      *) echo "VARIANT is cpu or cuda, not '$VARIANT'" >&2; exit 1 ;; \
    esac && pip install ${index:+--index-url "$index"} -r /opt/lm/torch.txt
COPY --from=requirements /core.txt /opt/lm/
RUN pip install -r /opt/lm/core.txt

# The folders that `lm` writes belong to the user before they become volumes: a new named volume takes that over.
ARG USER_ID
RUN useradd --uid "$USER_ID" --no-create-home lm && install -d -o lm -g lm /work/data /work/checkpoints
WORKDIR /work
# Triton's and torch.compile's caches ask for a home and a name, which a --user unknown to the image doesn't have.
ENV HOME=/tmp USER=lm

FROM core AS serve
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY --from=requirements /serve.txt /opt/lm/
RUN pip install -r /opt/lm/serve.txt
# Last, what changes often.
COPY --from=wheel /wheels /opt/lm
RUN pip install --no-deps /opt/lm/*.whl

# Another port outside is the -p of `docker run`; inside it stays this one, which the check asks.
EXPOSE 8000
# No proxy of the environment stands between the check and the server. It is not up until its models are read.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["python", "-c", "import urllib.request as r; \
r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/health', timeout=4)"]
ARG USER_ID
USER ${USER_ID}
ENTRYPOINT ["lm", "serve", "--host", "0.0.0.0"]
CMD ["--help"]

# The last one, which is built where no target is named.
FROM core AS train
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY --from=requirements /train.txt /opt/lm/
RUN pip install -r /opt/lm/train.txt
COPY --from=wheel /wheels /opt/lm
RUN pip install --no-deps /opt/lm/*.whl

VOLUME ["/work/data", "/work/checkpoints"]
ARG USER_ID
USER ${USER_ID}
ENTRYPOINT ["lm"]
CMD ["--help"]
