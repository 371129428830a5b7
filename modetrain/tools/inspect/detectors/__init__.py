"""One file per kind of evidence that tracing or compiling changes a step.

By code, as `codes.py` lists them:

    MT101 to MT104, MT206, MT301 to MT303, MT305   intercepted_functions.py (which function has which code), side_effects.py,
                                                   file_writes.py, process_dependent.py
    MT105 to MT107                                 trace_failures.py, at the line of `error_origin.py`
    MT106, MT205, MT305, MT504 to MT506, MT708            operations.py
    MT201 to MT205, MT304                          traces.py; MT207 eager_variables.py
    MT306 to MT308, MT606                          step_results.py, divergence.py
    MT401 to MT405                                 between_steps.py; in a running job stale_state.py
    MT501, MT502 and MT503                         unrolled_loops.py, retraces.py
    MT601 to MT605, MT607                          step_results.py, by `tf_errors.py`; in an XLA run `engine/guards/checks.py`
    MT701 to MT707                                 replicas.py, collectives.py, split_batch.py
    MT801 to MT805                                 input_pipeline.py
"""
