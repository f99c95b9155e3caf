"""Labels that do not fit the others: each is judged by models that did not see it, inside every fit."""
