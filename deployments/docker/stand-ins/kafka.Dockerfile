# Substitute for apache/kafka: the same jars, users and paths, on Debian's Java.
FROM stand-in/debian
RUN useradd --uid 1000 appuser \
    && install -d -o appuser /var/lib/kafka/data /opt/kafka/config /mnt/shared/config
COPY libs /opt/kafka/libs
COPY run /etc/kafka/docker/run
USER 1000
VOLUME ["/var/lib/kafka/data"]
CMD ["/etc/kafka/docker/run"]
