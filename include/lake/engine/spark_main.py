"""What the JVM of a Spark Connect server runs: start Spark, one plugin of which is the server, and wait.

Spark has a main class for this, SparkConnectServer. That gives every session a class loader of its own, and Spark keeps
what it compiles for a query by class loader: each build would compile its some hundred classes anew.
"""

import sys

from pyspark.sql import SparkSession

if __name__ == "__main__":
    SparkSession.builder.getOrCreate()
    sys.stdin.read()  # the other end is the JVM's: this ends with it, however it ends
