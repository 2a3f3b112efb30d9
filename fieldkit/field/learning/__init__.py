"""Learning task after task, with a bounded memory."""
