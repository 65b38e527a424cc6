"""The demo: agents that share a book, a race that is certain, and a judge of the outcome."""
