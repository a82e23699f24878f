"""What each party can learn from what it gets: the attacks, run on the user's own files."""
