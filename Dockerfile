# The image of every service of docker-compose.yaml but the database. Nothing is fetched when a container starts.
#
# The base image has the user, Python and its libraries. `make setup` adds the same environment as on a laptop, with the
# same lock and checksums. It is a separate environment, because the base has other versions than the lock.
FROM apache/airflow:3.3.2-python3.11
USER root
WORKDIR /opt/lake
ENV LAKE_JARS=/opt/lake/jars
ARG PIP_INDEX_URL
ARG LAKE_MAVEN_REPOSITORY

# Only the files that the set-up reads, so that an edit of other files does not repeat it.
COPY requirements.lock ./
COPY scripts/setup.sh scripts/setup.py scripts/truststore.py scripts/
COPY include/lake/__init__.py include/lake/errors.py include/lake/settings.py include/lake/
COPY include/lake/local include/lake/local
COPY include/lake/engine/__init__.py include/lake/engine/toolchain.py include/lake/engine/
# PIP_USER: the base sets pip to install into the user's folder, and a virtual environment refuses that.
RUN PIP_USER=false sh scripts/setup.sh \
    && rm -rf /root/.cache \
    # A new volume takes its owner from the folder in the image.
    && install -d -o airflow -g 0 /lake /secrets /opt/airflow/logs

COPY lake ./
COPY dags dags
COPY plugins plugins
COPY include include
COPY scripts scripts

USER airflow
# With this PATH, `docker-compose exec` finds the commands `lake` and `airflow`.
ENV LAKE_HOME=/lake LAKE_IN_CONTAINER=1 PATH=/opt/lake:/opt/lake/scripts:$PATH
ENTRYPOINT ["/opt/lake/.venv/bin/python", "-m", "scripts.container"]
