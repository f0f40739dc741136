"""Networks: plain torch, no config objects, shapes at every boundary."""
