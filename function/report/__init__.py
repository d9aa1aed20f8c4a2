"""What a journal says of some hours, as figures and as one page of HTML that needs nothing but itself (pure)."""
