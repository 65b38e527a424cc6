"""``demo credit``: agents decide on credit by a policy, and every decision is made again."""
