"""An object's past, from records alone: its stored states, who made them, and what the journal lacks (pure)."""
