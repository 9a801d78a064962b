"""Who may do what: rights, principals and their limits, as plain decisions."""
