"""What an expression, a table and a graph of a policy may say: judged without running them."""
