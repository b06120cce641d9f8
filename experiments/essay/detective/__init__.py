"""The essay's detective (§7): at which layer a clue, a motive and the culprit come to count."""
