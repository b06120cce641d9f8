"""Section 2.2: context fuses into a word's stream."""
