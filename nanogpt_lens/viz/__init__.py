"""Pictures of results: Plotly figures, CircuitsVis widgets, and the offline pages that hold them.

Everything here reads results and runs no model. A result draws itself by `result.plot()` and
`result.widget()`, which call `viz.figures` and `viz.widgets`.
"""
