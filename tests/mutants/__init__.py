"""Mutants: plausible mistakes in what the promises rest on, each killed by a named test.

A test that cannot fail proves nothing. Each ``NN_what_is_wrong.patch`` here makes one
mistake that somebody might make, and names the test that has to notice it::

    python3 tasks.py mutants                 all of them
    python3 tasks.py mutants 07 one_cte      those whose names contain any of these

A patch is a unified diff below a head of three fields, wrapped as one likes::

    Mistake: what is wrong, in the words of who would make it
    Promise: P4
    Killed-by: tests/db/test_groups.py::test_…

Mistakes in stored functions patch the migration, since that is what makes a database; the
readable schema is held to be the same by a test of its own.
"""
