"""Meta-evaluation: which metric tells a model that knows from one that does not, and can't be fooled.

``pools`` says which models are made, ``train`` makes them, ``asked`` asks them, ``measures`` turns what they answer
into one number a metric, ``faithfulness`` and ``robustness`` judge the metric by those numbers, ``record`` holds the
result and ``run`` does it all. Findings on nano are controlled; none generalises from it alone.
"""
