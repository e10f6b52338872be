"""The program of a Spark Connect server: it starts Spark, which runs the server as a plugin, and waits.

Spark has a main class for this, SparkConnectServer. But that gives every session a class loader of its own, and Spark
caches compiled classes by class loader. Then each build would compile its hundred or more classes again.
"""

import sys

from pyspark.sql import SparkSession

if __name__ == "__main__":
    SparkSession.builder.getOrCreate()
    sys.stdin.read()  # the JVM holds the other end, so this process ends with the JVM
