"""What there is to learn: each task brings data, network, loss and score to the one trainer."""
