"""What recipes, lessons and everyday work use: `from qsd_fastai.all import *`

All else has its room: `from qsd_fastai.data.bins import read_bin`."""
from fastai.callback.all import *
from fastai.vision.all import *

from .arms import ARMS, added_by, chosen_arms, settings_of
from .callbacks.centers import CenterUpdate
from .callbacks.held_out import HeldOut, HeldOutLoss, ranking_losses
from .callbacks.loss_terms import LossTerms
from .callbacks.many import ManyProcesses
from .callbacks.margin import MarginTuning
from .callbacks.octuplet import OctupletTuning
from .callbacks.partial_update import PartialUpdate
from .callbacks.running_loss import KeptLosses
from .callbacks.save_state import SaveState
from .callbacks.track_run import TrackRun
from .choices import one_of
from .closing import closing_of_seeds, evaluations_of, files_by_path, reference_of
from .commands import in_one_line
from .compiled import to_compiled, to_fast
from .data.blocks import IdentityBlock, PictureBlock, QualityBlock, SceneBlock
from .data.copies import DegradedCopies, degrade_batch
from .data.degradations import DEGRADATIONS, degrade
from .data.degraded import FACE_DEGRADATIONS, degraded_copies
from .data.labels import join_quality
from .data.loaders import IdentityDL, picture_files, recognition_block, recognition_dataloaders, table_rows
from .data.pairs import read_pairs, write_pairs
from .data.splits import enough_pictures, split_identities
from .data.table import check_table, describe_table, read_table, write_table
from .data.transforms import CropFlip, FaceAugment, Squish
from .distillation import QualityDistillation
from .distributed import from_first, processes, together
from .drawn.faces import generate_faces
from .drawn.people import generate_people
from .embedded import embed_to, read_embedded
from .embedder import Embedder, list_pictures
from .evaluation.comparison import arm_gains, arm_means, comparison_text, halved_arms
from .evaluation.metrics import Retrieval, Verification, hardest_pairs, hardest_queries
from .evaluation.rejection import error_vs_reject, retrieval_vs_reject
from .evaluation.reranking import expand_queries, k_reciprocal
from .evaluation.retrieval import by_quality, evaluate_distances, evaluate_retrieval
from .evaluation.roc import roc_points, tar_at_far
from .evaluation.sharded import evaluate_sharded
from .evaluation.store import read_embeddings, write_embeddings
from .evaluation.verification import evaluate_verification, fuse_flip
from .export import export_embedder, model_card
from .files import save_figure, save_frame, save_text
from .judging.judgement import check_choices, merged, ranks_of, rates_of, track_judgement
from .judging.models import open_learner, open_model
from .judging.pairs import judge_pairs
from .judging.search import judge_held_out, judge_search
from .judging.sets import PairSets
from .judging.tables import hardest_shown, pictures_of, tables_to_judge
from .judging.templates import judge_templates
from .labelling import OnlineQuality, cross_fitted_labels
from .launched import first_goes_on, joined
from .learner import RecognitionLearner, imprint_head, recognition_learner
from .losses import (
    CenterLoss,
    IdentityLoss,
    MarginLoss,
    OctupletLoss,
    RecognitionLoss,
    TripletLoss,
    WeightedRegularizedTriplet,
)
from .models.bodies.agw import agw_resnet50
from .models.bodies.by_name import body_name, make_body
from .models.bodies.iresnet import iresnet18, iresnet34, iresnet50, iresnet100
from .models.bodies.mobilefacenet import mobilefacenet
from .models.heads.by_name import make_head
from .models.heads.linear import LinearHead
from .models.heads.margins import AdaFace, ArcFace, CosFace, CurricularFace, MagFace, SubCenterArcFace
from .models.heads.partial_fc import PartialFC
from .models.layers import BNNeck, GeM
from .models.preprocess import face_stats, stats_of
from .models.recognizer import Recognizer
from .models.weights.read import load_reference
from .optimizers import FusedAdam, fused_adam
from .panning import fit_panning, pan_model
from .plots.curves import cmc_figure, det_figure, error_vs_reject_figure, gains_figure, roc_figure
from .plots.pictures import hardest_figure, hardest_pairs_figure, ranked_lists_figure, sheet_figure
from .plots.quality import map_by_quality_figure, quality_agreement_figure, quality_histogram_figure
from .plots.style import said_of
from .private import without_folders
from .qsd_loss import QSDLoss, grouped_pairs, identity_pairs, partner_pairs, ranked_pairs, select_pairs
from .quality import label_table, norm_quality, similarity_quality
from .rehearsal import rehearse
from .runs.folder import read_run, run_folder, run_or_nothing
from .runs.keys import key_of, under
from .runs.made import table_content
from .runs.offline import offline_runs, read_offline, runs_frame
from .runs.tables import read_results
from .runs.wandb_run import finish_run, start_run, uses
from .runs.wandb_tables import figure_image, log_closing
from .schedules import warmup_multistep
from .severity import severity_labels
from .stages import Run
from .terminal import for_terminal
