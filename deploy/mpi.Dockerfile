# vila-u for jobs of the MPI operator (deploy/mpijob.yaml): with OpenMPI, and sshd as its launcher needs it, for a user that is not
# root. Build it from the repository's root; for GPUs on an image with CUDA's libraries:
#
#     docker build -f deploy/mpi.Dockerfile -t vila-u-mpi .
#     docker build -f deploy/mpi.Dockerfile -t vila-u-mpi --build-arg FEATURES=cuda,mpi \
#         --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 .
ARG BASE=debian:bookworm-slim

FROM rust:1.95-bookworm AS build
ARG FEATURES=mpi
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends libopenmpi-dev openmpi-bin
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked --bin vila-u --features "$FEATURES" && cp target/release/vila-u /usr/local/bin/

FROM $BASE
RUN apt-get -qq update \
    && apt-get -qq install -y --no-install-recommends openmpi-bin openssh-client openssh-server \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /run/sshd \
    && useradd --uid 10001 --create-home --shell /bin/bash vila-u
# The operator mounts the keys of a job, which belong to no user, and names machines that no list knows.
RUN printf 'Host *\n    Port 2222\n    StrictHostKeyChecking no\n    UserKnownHostsFile /dev/null\n    LogLevel ERROR\n' \
        > /etc/ssh/ssh_config.d/mpi.conf \
    && printf '%s\n' 'Port 2222' 'PidFile /home/vila-u/sshd.pid' 'HostKey /home/vila-u/.ssh/id_rsa' 'StrictModes no' \
        > /home/vila-u/.sshd_config
COPY --from=build /usr/local/bin/vila-u /usr/local/bin/
USER 10001
WORKDIR /work
