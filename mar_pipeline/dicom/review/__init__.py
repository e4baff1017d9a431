"""What there is to look at afterwards: the page and the summary."""
