"""What SQL stores do, written once: operations are functions of a `Transaction`, statements belong to a dialect.

A store brings a connection, a `Statements` in its dialect, and a `Transaction` that knows what the dialect cannot say.
"""
