"""From pieces to a model/guide pair that fits."""
