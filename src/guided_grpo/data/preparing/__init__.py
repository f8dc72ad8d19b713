"""From records to a checked training set, with a reason for every record that makes none.

recipe.py      the settings: one YAML file, or the command line
curate.py      reader → faults → overlap.py (duplicates, contamination) → traces.py (which one becomes guidance)
selection.py   filters, numbers per tier, order; the sample filters of Table 7
survey.py      figures of a stream of rows
prepare.py     writes the folder, whole or not at all
"""
