"""Commands that show what there is: models, figures, pages."""
