"""From wherever problems come to rows that train.

reading/           records of any published schema, their readers, the checks of a row; benchmarks by name
sources.py         `load_rows`: what train, sft, eval, audit and difficulty load
leak.py            how much of a trace may be given before it states the answer
preparing/         `data check`, `data prepare`: a recipe, with a reason for every record that makes no row
annotating/        `data annotate`: traces from a teacher
domains/           problems that are generated
curriculum.py      the order of rows over an epoch; adaptive.py: one that follows the rewards
demonstrations.py  rows for supervised fine-tuning
"""
