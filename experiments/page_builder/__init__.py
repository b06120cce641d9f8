"""What readers see of the verdicts: one screen of all claims, a page a script, the essay's map; English and Chinese."""
