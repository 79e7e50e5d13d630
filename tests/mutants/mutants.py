"""Seeded bugs: each is one small change of the kind that real systems shipped, applied to the program in memory.

`tests/mutants/test_mutants.py` applies each in a process of its own and runs the tests that should notice.
"""

from __future__ import annotations

from tests.mutants.accounting import (
    fresh_accountant,
    lifetime_accountant_unchecked,
    lifetime_delta_unchecked,
    no_division,
    realised_divisor,
    renyi_cost_unchecked,
    shuffled_batches,
    skipped_empty_batch,
    true_rate,
)
from tests.mutants.disclosure import embedded_key, loss_in_the_reply, refusal_depends_on_a_record
from tests.mutants.exactness import (
    answer_at_once,
    encode_before_charge,
    every_field_read,
    float_sum,
    no_grid,
    panic_passes,
    probe_of_twelve_tokens,
    rows_not_checked,
    workers_not_compared,
)
from tests.mutants.influence import (
    batch_loss,
    batch_loss_of_answers,
    batch_loss_of_chats,
    batch_loss_of_classes,
    batch_loss_of_texts,
    clip_per_layer,
    clip_per_window,
    nan_passes,
    users_records_as_examples,
    vectors_of_another_adapter,
    windows_by_themselves,
)
from tests.mutants.ledger import (
    answer_before_commit,
    approval_for_ever,
    approval_ignored,
    cap_of_the_file,
    chain_not_checked,
    old_ledger_accepted,
    runs_not_added_up,
    settle_without_reserve,
)
from tests.mutants.mutant import Mutant
from tests.mutants.noise import (
    constant_seed,
    forgotten_noise,
    rounded_before_noise,
    same_noise_in_two_rounds,
    short_seed,
)

_FALSE_STATEMENT = "common/report/test_forged.py::test_a_false_statement_is_found_for_the_right_reason"
_GRADIENTS = "common/tasks/test_every_task.py::test_gradients_of_examples_are_those_of_a_loop"

# In the order of the conditions that they break.
MUTANTS = (
    Mutant(
        shuffled_batches,
        "client/vault/training/test_dp_sgd.py::test_poisson_sampling_draws_each_unit_independently_at_the_rate",
    ),
    Mutant(
        batch_loss,
        "common/tasks/test_causal_lm.py::test_the_companions_of_an_example_do_not_change_its_loss",
    ),
    Mutant(batch_loss_of_chats, f"{_GRADIENTS}[ffa-chat-decoder]"),
    Mutant(batch_loss_of_classes, f"{_GRADIENTS}[ffa-classification-encoder]"),
    Mutant(batch_loss_of_answers, f"{_GRADIENTS}[ffa-question-answering-encoder]"),
    Mutant(batch_loss_of_texts, f"{_GRADIENTS}[ffa-seq2seq-both]"),
    Mutant(
        windows_by_themselves,
        "common/tasks/test_every_task.py::test_one_record_moves_a_release_by_at_most_the_clipping_norm_over_the_batch"
        "[0-float32-question-answering-encoder]",
    ),
    Mutant(
        vectors_of_another_adapter,
        "client/vault/training/test_features.py::test_vectors_are_those_of_each_example_alone_and_made_anew_when_the_layers_change",
    ),
    Mutant(
        realised_divisor,
        "client/vault/training/test_dp_sgd.py::test_steps_and_divisor_do_not_depend_on_the_number_of_records[0]",
    ),
    Mutant(
        no_division,
        "client/vault/training/test_dp_sgd.py::test_the_released_noise_is_that_of_the_mechanism_divided_by_the_public_batch",
    ),
    Mutant(
        true_rate,
        "client/vault/test_vault.py::test_records_are_drawn_at_the_public_rate_not_the_true_one",
    ),
    Mutant(
        fresh_accountant,
        "client/vault/test_vault.py::test_the_run_is_charged_whole_before_the_first_round_ends",
    ),
    Mutant(
        skipped_empty_batch,
        "client/vault/training/test_dp_sgd.py::test_an_empty_draw_is_a_step_like_any_other",
    ),
    Mutant(
        constant_seed,
        "client/vault/training/test_entropy.py::test_the_system_never_gives_the_same_stream_twice",
    ),
    Mutant(
        short_seed,
        "client/vault/training/test_entropy.py::test_each_stream_has_a_key_of_256_bits_from_the_system_and_every_bit_matters",
    ),
    Mutant(
        same_noise_in_two_rounds,
        "client/vault/test_vault.py::test_every_round_and_every_run_has_other_noise",
    ),
    Mutant(
        forgotten_noise,
        "client/vault/training/test_dp_sgd.py::test_the_released_noise_is_that_of_the_mechanism_divided_by_the_public_batch",
    ),
    Mutant(
        rounded_before_noise,
        "client/vault/test_release.py::test_the_release_follows_from_the_noised_update_and_the_rounding_alone",
    ),
    Mutant(
        clip_per_layer,
        "client/vault/training/test_dp_sgd.py::test_one_record_moves_the_clipped_sum_by_at_most_the_clipping_norm",
    ),
    Mutant(
        clip_per_window,
        "client/vault/training/test_users.py::test_the_sum_is_that_of_a_plain_loop_that_clips_each_user_once",
    ),
    Mutant(
        users_records_as_examples,
        "client/vault/test_vault_users.py::test_a_user_more_moves_the_release_by_at_most_one_clipped_gradient",
    ),
    Mutant(
        nan_passes,
        "client/vault/training/test_dp_sgd.py::test_a_record_whose_gradient_is_not_finite_contributes_zero",
    ),
    Mutant(
        settle_without_reserve,
        "client/vault/test_vault.py::test_the_ledger_is_charged_before_any_gradient",
    ),
    Mutant(
        answer_before_commit,
        "client/vault/test_vault.py::test_the_same_request_again_gets_the_stored_release",
    ),
    Mutant(
        loss_in_the_reply,
        "common/flower/test_codec.py::test_a_release_holds_its_tensors_and_its_ledgers_head_and_nothing_else",
    ),
    Mutant(
        refusal_depends_on_a_record,
        "client/vault/test_vault.py::test_what_leaves_has_the_same_shape_whatever_the_records_are",
    ),
    Mutant(
        embedded_key,
        "common/report/test_report.py::test_the_key_inside_a_statement_does_not_make_its_signature_valid",
    ),
    Mutant(lifetime_accountant_unchecked, f"{_FALSE_STATEMENT}[an unknown filter]"),
    Mutant(lifetime_delta_unchecked, f"{_FALSE_STATEMENT}[basic, a smaller delta than the run's]"),
    Mutant(renyi_cost_unchecked, f"{_FALSE_STATEMENT}[renyi, nothing spent]"),
    Mutant(
        old_ledger_accepted,
        "client/vault/ledger/test_chain.py::test_an_older_copy_that_is_put_back_is_behind_its_own_signature",
    ),
    Mutant(
        chain_not_checked,
        "client/vault/ledger/test_chain.py::test_whatever_is_changed_or_removed_is_found_when_the_ledger_is_opened",
    ),
    Mutant(
        approval_ignored,
        "client/vault/policy/test_approval.py::test_a_plan_that_is_not_approved_is_refused_and_costs_nothing",
    ),
    Mutant(
        approval_for_ever,
        "client/vault/policy/test_approval.py::test_an_approval_covers_one_run_and_all_its_rounds",
    ),
    Mutant(
        runs_not_added_up,
        "client/vault/test_vault.py::test_a_third_run_beyond_the_lifetime_is_refused",
    ),
    Mutant(
        cap_of_the_file,
        "client/vault/policy/test_approval.py::test_a_run_is_held_against_the_cap_of_the_ledger",
    ),
    Mutant(
        rows_not_checked,
        "client/vault/test_order.py::test_a_plan_whose_rows_differ_is_refused_before_the_charge",
    ),
    Mutant(
        workers_not_compared,
        "client/vault/workers/test_workers.py::test_workers_whose_gradients_differ_are_refused_before_any_spend",
    ),
    Mutant(
        float_sum,
        "client/vault/training/test_exact.py::test_the_sum_is_the_same_in_any_order_and_any_parts",
    ),
    Mutant(
        no_grid,
        "client/vault/training/test_exact.py::test_what_is_released_lies_on_a_grid_that_is_public",
    ),
    Mutant(
        panic_passes,
        "client/vault/records/test_units.py::test_a_record_that_makes_the_tokenizer_fail_contributes_nothing_whatever_the_failure[Panic]",
    ),
    Mutant(
        encode_before_charge,
        "client/vault/test_order.py::test_no_record_is_read_before_the_run_is_charged",
    ),
    Mutant(
        probe_of_twelve_tokens,
        "client/vault/training/test_rows.py::test_texts_longer_than_the_positions_are_refused",
    ),
    Mutant(
        every_field_read,
        "client/vault/records/test_units.py::test_a_field_that_is_too_long_is_not_read_and_the_others_are",
    ),
    Mutant(
        answer_at_once,
        "client/vault/test_order.py::test_a_round_is_settled_at_its_time_whether_training_was_quick_slow_or_failed",
    ),
)
