"""Properties: the log beside a plain model of it, on examples that Hypothesis makes.

In process, and not over HTTP, for two reasons. Each example needs a book of its own, which
over HTTP is a database and a service (seconds) and here is a row (a millisecond); and a
step takes 2 ms instead of 6. What the door adds is the contract tests' subject; judging
bodies, group commit, SQL and cursors are all in what is driven here.
"""
