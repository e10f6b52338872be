# The image of every service of docker-compose.yaml but the database. Nothing is fetched when a container starts.
#
# The base brings the user, Python and its libraries. Into it goes what `make setup` puts on a laptop, with the same
# lock and checksums: an environment of our own, since the base's has other versions of what the lock pins.
FROM apache/airflow:3.3.2-python3.11
USER root
WORKDIR /opt/lake
ENV LAKE_JARS=/opt/lake/jars
ARG PIP_INDEX_URL
ARG LAKE_MAVEN_REPOSITORY

# Only what the set-up reads, so that an edit of the rest does not do it again.
COPY requirements.lock ./
COPY scripts/setup.sh scripts/setup.py scripts/truststore.py scripts/
COPY include/lake/__init__.py include/lake/errors.py include/lake/settings.py include/lake/
COPY include/lake/local include/lake/local
COPY include/lake/engine/__init__.py include/lake/engine/toolchain.py include/lake/engine/
# PIP_USER: the base wants pip to install into the user's folder, which a virtual environment refuses.
RUN PIP_USER=false sh scripts/setup.sh \
    && rm -rf /root/.cache \
    # What a volume is mounted over takes its owner from here.
    && install -d -o airflow -g 0 /lake /secrets /opt/airflow/logs

COPY lake ./
COPY dags dags
COPY plugins plugins
COPY include include
COPY scripts scripts

USER airflow
# `lake` and `airflow` are found by these names in `docker-compose exec`.
ENV LAKE_HOME=/lake LAKE_IN_CONTAINER=1 PATH=/opt/lake:/opt/lake/scripts:$PATH
ENTRYPOINT ["/opt/lake/.venv/bin/python", "-m", "scripts.container"]
