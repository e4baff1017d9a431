"""Arms side by side: their trainings, and what the differences between them are worth."""
