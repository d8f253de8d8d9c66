"""How a trained student stands up to attacks: the attacks, the named budgets, what is measured and warned of."""
