"""Before training: how much guidance helps this policy on this data, what groups would teach, and what to do.

trials.py      which problems are asked, as in training, and what the responses to one in one setting come to
predict.py     from K samples a problem to groups that no one has sampled
estimates.py   problems against settings: success by strength and tier, zero-signal groups, the ladder, cost
advice.py      the recommendation and its reasons, or why guidance is not the thing to try
against.py     what was predicted beside what runs then measured
audit_page.py  one self-contained HTML page, with the figures of charts.py
"""
