"""Before training: how much guidance helps this policy on this data, what groups would teach, and what to do.

choice.py     which problems are asked
trials.py     how they are asked, as in training, and what the responses to one problem in one setting come to
predict.py    from K samples a problem to groups that no one has sampled
table.py      problems against settings
estimates.py  success by strength and tier, zero-signal groups, the ladder, cost
rules.py      thresholds, and the form of the advice
refusals.py   when guidance is not the thing to try, or cannot help
advice.py     the recommendation and its reasons
against.py    what was predicted beside what runs then measured
page.py       one self-contained HTML page, drawn by figures.py
"""
