"""``unbench new-method``: a method that works as it is, to be changed into one's own."""
