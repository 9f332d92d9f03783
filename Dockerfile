# docker build -t lm .                                    # for CPUs
# docker build -t lm:cuda --build-arg VARIANT=cuda .      # for NVIDIA GPUs; run with --gpus all --ipc=host
# docker run --rm -it -v lm-data:/work/data -v lm-runs:/work/checkpoints lm fit gpt-nano
#
# With folders of the host instead of named volumes, add --user "$(id -u):$(id -g)": any user id works.
# `docker stop` lets a run save a checkpoint first; --time gives it longer than ten seconds.

# Any image with Python 3.11 or later as `python` and `pip`, and useradd; for cuda also apt-get and Python's headers.
ARG BASE=python:3.11-slim

# The requirements as files of their own, so that the layers below change with them alone, not with all of pyproject.
FROM ${BASE} AS requirements
COPY pyproject.toml /
RUN cd / && python -c "import tomllib; \
    pyproject = tomllib.load(open('pyproject.toml', 'rb')); \
    project, extras = pyproject['project'], pyproject['project']['optional-dependencies']; \
    chosen = [r for name in ('zst', 'parquet', 'hf', 'lora', 'metrics') for r in extras[name]]; \
    print(*project['dependencies'], *chosen, *pyproject['build-system']['requires'], sep='\n')" \
    > requirements.txt && grep '^torch[^a-z]' requirements.txt > torch.txt

FROM ${BASE}
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
COPY --from=requirements /requirements.txt /opt/lm/
RUN pip install -r /opt/lm/requirements.txt

# The folders that `lm` writes belong to the user before they become volumes: a new named volume takes that over.
ARG USER_ID=1000
RUN useradd --uid "$USER_ID" --no-create-home lm && install -d -o lm -g lm /work/data /work/checkpoints
WORKDIR /work
VOLUME ["/work/data", "/work/checkpoints"]
# Triton's and torch.compile's caches ask for a home and a name, which a --user unknown to the image doesn't have.
ENV HOME=/tmp USER=lm

# Last, what changes often. hatchling is there already, so this needs no network.
COPY pyproject.toml README.md LICENSE /opt/lm/
COPY lm /opt/lm/lm
COPY configs /opt/lm/configs
RUN pip install --no-deps --no-build-isolation /opt/lm

USER ${USER_ID}
ENTRYPOINT ["lm"]
CMD ["--help"]
