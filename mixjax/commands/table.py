"""Every command with all of its flags: parsing, help, completion and errors come from this table alone."""

from __future__ import annotations

import re

from mixjax.commands.parser import Arguments, Command, Flag, Positional, names, short
from mixjax.errors import UserError, nearest

MEASURES = ('interpolation', 'spectrum', 'probe', 'targets', 'cam', 'plane', 'curves', 'sweep')
SHELLS = ('bash', 'zsh', 'fish')
SAME_COMMAND = 'the same command goes on from the last checkpoint'

CONFIG = Flag(
    'config', 'a config file, or the name of a shipped one (mixjax train --list names them)', 'FILE', required=True,
    configs=True,
)  # fmt: skip
IMPORT = Flag(
    'import', 'a module to import first, such as one that registers a network of yours; repeated, or with commas',
    'MODULE', repeated=True, default=(),
)  # fmt: skip
CHANGED_CODE = Flag(
    'changed-code', 'accept: go on with a run although the source of your own method has changed since it began',
    'accept', choices=('accept',),
)  # fmt: skip
PROCESSES = 'Several processes, each with its own devices, train one run: the same command in each of them.'
CLUSTER = (
    Flag('distributed', 'auto: as the cluster says that starts them (Cloud TPU, Slurm, Open MPI, Kubernetes); on: it '
         'is an error if there is none; off: each process is a separate run', 'MODE', choices=('auto', 'on', 'off'),
         default='auto', group=PROCESSES),
    Flag('coordinator', 'without such a cluster: where process 0 listens', 'HOST:PORT', group=PROCESSES),
    Flag('processes', 'how many there are', 'N', group=PROCESSES),
    Flag('process', 'which one this is, from 0', 'I', group=PROCESSES),
)  # fmt: skip


# --- flags that go together -------------------------------------------------------------------------------------------


def check_predict(arguments: Arguments) -> None:
    """Either images or the test set, and pictures only of images."""
    if bool(arguments.positional) == arguments['test']:
        raise UserError('give images or folders, or --test for the test set of the run')
    if arguments['why'] and arguments['test']:
        raise UserError('--why explains images that are given; leave --test out')
    if arguments['engine'] and (arguments['why'] or arguments['test']):
        raise UserError('--engine predicts images that are given; --why and --test are for the work directory of a run')
    if 'out' in arguments.given and not arguments['why']:
        raise UserError('--out is the folder of the pictures that --why draws; add --why')


def check_report(arguments: Arguments) -> None:
    """Settings are those of a table's grid, whose runs are in one folder."""
    if 'table' not in arguments.given and arguments.overrides:
        key, value = arguments.overrides[0]
        raise UserError(f'--config.{key}={value} goes with --table: the settings of finished runs are what they were')
    if 'table' in arguments.given and len(arguments.positional) > 1:
        raise UserError(f'--table takes one folder, that of all runs of the table, not {len(arguments.positional)}')


def check_grid(arguments: Arguments) -> None:
    """One thing to do."""
    if len({'count', 'list', 'run', 'status'} & arguments.given.keys()) != 1:
        raise UserError('give one of --count, --list, --run=INDEX and --status (see mixjax grid --help)')


def check_analyse(arguments: Arguments) -> None:
    """Measures that there are."""
    for name in arguments['what']:
        if name not in (*MEASURES, 'all'):
            raise UserError(
                f'--what: there is no measure {name!r}{nearest(name, MEASURES)}; they are {", ".join(MEASURES)}, or all'
            )
    if not arguments['what']:
        raise UserError(f'--what needs one of {", ".join(MEASURES)}, or all')


def check_merge(arguments: Arguments) -> None:
    """One rule, and shares for the rule that has them."""
    if arguments['with'] and arguments['uniform']:
        raise UserError('--with=start merges one run with its start, and --uniform several; give one of them')
    if arguments['with'] and arguments['seeds']:
        raise UserError('--with=start merges one network with its start; leave --seeds out')
    if 'share' in arguments.given and not arguments['with']:
        raise UserError('--share goes with --with=start: the share of the run between its start and it')
    if not arguments['share']:
        raise UserError('--share needs a number from 0 to 1, or several with commas')


def minutes(text: str) -> str:
    """The `type` of a flag whose value is a number of minutes; it stays a text."""
    if not re.fullmatch(r'[0-9]+(\.[0-9]*)?|\.[0-9]+', text) or not 0 < float(text) <= 100_000:
        raise UserError(f'--minutes must be a number above 0, not {short(text)!r}')
    return text


def shares(text: str) -> tuple[float, ...]:
    """The `type` of a flag whose value is several shares with commas; `0,0.1,..,1` fills in the numbers between."""
    words = names(text)
    for number in (word for word in words if word != '..'):
        if not re.fullmatch(r'[0-9]+(\.[0-9]*)?|\.[0-9]+', number) or float(number) > 1:
            raise UserError(f'--share must be numbers from 0 to 1 with commas, not {short(number)!r}')
    if '..' not in words:
        return tuple(map(float, words))
    if len(words) != 4 or words.index('..') != 2:
        raise UserError(f'--share={short(text)}: of a row write the first two and the last number, as in 0,0.1,..,1')
    first, second, last = (float(word) for word in words if word != '..')
    count = round((last - first) / (second - first)) if second > first else 0
    if not 1 <= count <= 1000 or abs(first + count * (second - first) - last) > 1e-9:
        raise UserError(f'--share={short(text)}: the numbers do not lead to the last one in equal steps')
    return tuple(round(first + k * (last - first) / count, 12) for k in range(count + 1))


# --- the commands -----------------------------------------------------------------------------------------------------

TRAIN = Command(
    'train', 'train networks from a config, or continue a stopped run', 'mixjax.commands.train:run',
    (
        'mixjax train --config=quickstart --workdir=runs/quickstart',
        'mixjax train --config=xmixup_dogs:smoke --workdir=runs/trial',
    ),
    (
        CONFIG._replace(metavar='FILE[:smoke]', help=f'{CONFIG.help}; :smoke tries it for two steps on made-up images, '
                        'without data or weights'),
        Flag('workdir', 'where results go, a folder or gs://BUCKET/FOLDER; the same command again continues a run '
             'that was stopped', 'DIR', required=True),
        IMPORT,
        CHANGED_CODE,
        Flag('list', 'print the shipped configs, methods, networks and data sets', alone=True),
        *CLUSTER,
    ),
    settings=True,
    exits='Exit codes: 0 done, 2 wrong input (one message says what to do), 3 another process trains in that work '
    'directory, 42 stopped by SIGTERM, and saved, 130 interrupted (of the last two, run it again to go on).',
    resume=SAME_COMMAND,
)  # fmt: skip

BEST = Command(
    'best', 'search for the best classifier of a folder, in a given time', 'mixjax.commands.best:run',
    (
        'mixjax best ~/photos --minutes=30',
        'mixjax best ~/photos --networks=convnext_tiny --methods=probe,lpft,smile',
    ),
    (
        Flag('minutes', 'the time for everything (30)', 'N', minutes),
        Flag('workdir', 'where all of it goes (runs/NAME-best); the same command goes on after a stop', 'DIR'),
        Flag('networks', 'networks to try, with commas: NAME, NAME=WEIGHTS or WEIGHTS; without it, those of today '
             'whose weights are here or can be fetched', 'NAMES', names, ()),
        Flag('methods', 'methods to try, with commas: probe, and those of fine-tuning (probe, lpft, smile)', 'NAMES',
             names, ()),
        Flag('unknown', 'call an image unknown if no class is probable enough; 5 % of the images of known classes are '
             'then given up (--config.search.unknown)'),
        Flag('dry-run', 'look at the folder, say what would be done, and stop'),
        IMPORT,
    ),
    Positional('FOLDER', 'a folder with a sub-folder of images for each class', 1, 1),
    settings=True,
    details='Looks at the images: unreadable ones, copies, images in two classes. Then a probe on the features of each '
    'network, which can be used within a minute or two; then as many trials of fine-tuning as the time allows, by '
    'cross-validation, on fewer and fewer candidates; then the best, trained on all images. Prints what accuracy to '
    'expect, without the flattery of the choice, and writes a report. --config.KEY=VALUE sets anything for all trials, '
    'and --config.search.KEY the search itself.',
    exits='Exit codes: 0 done, 2 wrong input (one message says what to do), 3 another process searches in that work '
    'directory, 42 stopped by SIGTERM, 130 interrupted (of the last two, run it again to go on).',
    resume=SAME_COMMAND,
)  # fmt: skip

PREDICT = Command(
    'predict', 'classify images with a trained network', 'mixjax.commands.predict:run',
    (
        'mixjax predict --workdir=runs/pets photo.jpg more/ --top=3',
        'mixjax predict --workdir=runs/pets --test',
        'mixjax predict --workdir=runs/pets --why photo.jpg',
    ),
    (
        Flag('workdir', 'the work directory of a run (of a comparison: RUN/METHOD)', 'DIR', required=True),
        Flag('top', 'how many classes to show; of several labels an image all above 0.5 are', 'N', int, 5, least=1),
        Flag('batch', 'images that are predicted at once', 'N', int, 64, least=1),
        Flag('test', "predict the run's own test set"),
        Flag('engine', 'predict with an exported file (mixjax export), whose folder --workdir is', 'NAME',
             choices=('onnx', 'stablehlo')),
        Flag('why', 'draw why-NAME.png for each image: where the network finds the likeliest class, and the nearest '
             'labelled images'),
        Flag('out', 'where --why draws', 'DIR', default='.'),
        Flag('json', 'print JSON'),
        Flag('csv', 'also write a table', 'FILE'),
        IMPORT._replace(help='a module to import first, such as one with a method or a network of yours; repeated, or '
                        'with commas'),
    ),
    Positional('IMAGE', 'image files, and folders with images'),
    check=check_predict,
    details='Prints for each image the likeliest classes. Folders are searched through; where their sub-folders are '
    'named after classes, the accuracy is printed too.',
)  # fmt: skip

EXPORT = Command(
    'export', 'write a trained network in a form that other programs read', 'mixjax.commands.export:run',
    (
        'mixjax export runs/pets --to=timm',
        'mixjax export runs/pets --to=onnx,stablehlo --out=pets',
    ),
    (
        Flag('to', 'forms, with commas: timm (and transformers), torchvision, onnx, stablehlo, safetensors (ours)',
             'FORMS', names, (), required=True),
        Flag('out', 'a new or empty folder (export/FORM in the run); with several forms, a folder for each in it',
             'DIR'),
        Flag('precision', 'of onnx: float32, float16, or int8, whose ranges are those of training images', 'TYPE',
             choices=('float32', 'float16', 'int8'), default='float32'),
        Flag('images', 'images that the written file is compared on', 'N', int, 64, least=1),
        IMPORT,
    ),
    Positional('RUN', 'the work directory of a finished run (of a comparison: RUN/METHOD)', 1, 1),
    details='Writes the network with its classes, preprocessing, temperature and licence, and a README.md with what is '
    'known of it. The file is then opened by the other program (torch with timm or torchvision, onnxruntime, '
    'jax.export; without torch its names are read back), and is kept only if it gives the same probabilities on '
    "images of the run's test part: 1e-4 at most between them.",
    exits='Exit codes: 0 done, 2 wrong input, or a form that cannot hold this network (one message says why).',
)  # fmt: skip

SERVE = Command(
    'serve', 'try networks on a local page, and answer requests over HTTP', 'mixjax.commands.serve:run',
    (
        'mixjax serve runs/pets',
        'mixjax serve runs/pets runs/pets-best --port=8080',
    ),
    (
        Flag('host', 'the address to listen on; any other than that of this machine alone needs a token', 'HOST',
             default='127.0.0.1'),
        Flag('port', 'the port to listen on; 0 for any that is free', 'N', int, 8000, least=0),
        Flag('token', 'what a client must send (Authorization: Bearer TOKEN); without it, one is made where it is '
             'needed ($MIXJAX_TOKEN)', 'TOKEN'),
        Flag('batch', 'images that are predicted at once, at most', 'N', int, 16, least=1),
        Flag('queue', 'images that may be in work or wait; of more, requests are refused (503)', 'N', int, 128,
             least=1),
        Flag('workers', 'threads that decode images (as many as there are cores, at most 4)', 'N', int, 0, least=0),
        IMPORT._replace(help='a module to import first, such as one with a method or a network of yours; repeated, or '
                        'with commas'),
    ),
    Positional('RUN', 'the work directory of a run (of a comparison: RUN/METHOD) or of a search by mixjax best', 1),
    details='Opens a page to drop photographs on: it shows the classes with their probabilities, where the network '
    'finds the likeliest class, and the nearest labelled images; several networks side by side. POST /predict answers '
    'programs (docs/serve.md). Nothing that is sent is kept or leaves this machine.',
    exits='Exit codes: 0 ended by Ctrl+C or SIGTERM, 2 wrong input (one message says what to do).',
)  # fmt: skip

PUSH = Command(
    'push', 'send a trained network to the Hugging Face hub', 'mixjax.commands.push:run',
    (
        'mixjax push runs/pets hf://me/pets --dry-run',
        'mixjax push runs/pets/export/onnx hf://me/pets-onnx --private',
    ),
    (
        Flag('private', 'make a new repository private'),
        Flag('dry-run', 'say what would be sent, and stop'),
        IMPORT,
    ),
    Positional('RUN hf://OWNER/NAME', 'the work directory of a run, which is exported for timm first, or the folder of '
               'an export; and the repository', 2, 2),
    details='Sends the files that the export wrote, and nothing else: no images, and of paths their last names only. '
    'It needs a token that may write (`hf auth login`, or HF_TOKEN).',
    exits='Exit codes: 0 done, 2 wrong input, or the hub refuses (one message says why).',
)  # fmt: skip

REPORT = Command(
    'report', "write the report of finished runs, or a paper's table beside them", 'mixjax.commands.report:run',
    (
        'mixjax report runs/smile runs/xmixup --out=both.html',
        'mixjax report --table=smile_table2 runs/tables',
    ),
    (
        Flag('out', 'where to write (report.html in the folder, or beside several)', 'FILE'),
        Flag('table', 'a table of the papers, such as smile_table2, beside our runs', 'NAME'),
    ),
    Positional('WORKDIR', 'the work directory of a finished run or comparison, or a folder of such', least=1),
    settings=True,
    check=check_report,
    details='One folder gives report.html in it; several give one page with a section for each. With --table the '
    'numbers of a paper are printed with ours beside them, and written as Markdown and CSV; WORKDIR is then the '
    'folder with the runs of the grid configs/tables/NAME.py, and --config.KEY=VALUE is what that grid was given.',
)  # fmt: skip

GRID = Command(
    'grid', 'count, list, train and monitor the runs of a grid file', 'mixjax.commands.grid:run',
    (
        'mixjax grid configs/digits/grid.py --list',
        'mixjax grid configs/digits/grid.py --run=0',
    ),
    (
        Flag('count', 'how many different runs there are; cells with equal configs are one run'),
        Flag('list', 'one line a run: index, arguments, work directory'),
        Flag('run', 'train that run, go on with it, or say that it is finished; auto takes the index from the engine: '
             '$SLURM_ARRAY_TASK_ID or $JOB_COMPLETION_INDEX', 'INDEX'),
        Flag('status', 'how many are done, running, begun and missing, and which'),
        Flag('runs', "the folder of the work directories (runs/<the file's RUNS, or its name>)", 'DIR'),
        IMPORT,
        CHANGED_CODE._replace(help=f'{CHANGED_CODE.help} (of --run)'),
        *(flag._replace(group='Several processes train one run (of --run).') for flag in CLUSTER),
    ),
    Positional('FILE', "a config file with get_config(argument) and grid(), which lists the arguments of its cells: "
               "['method=smile,per_class=3', ..]; FILE:smoke tries its runs in two steps each, in the folder smoke "
               'beside theirs', 1, 1, configs=True),
    settings=True,
    check=check_grid,
    details="A run's work directory is named after its config, so the same cell is the same run in every grid, on "
    'every machine, and a command that is given again goes on. Nothing but --run needs data, weights or an '
    'accelerator.',
    exits='Exit codes: 0 done (or finished before), 2 wrong input (one message says what to do), 3 another process '
    'trains this run; --run ends with all others as mixjax train does.',
    resume=SAME_COMMAND,
)  # fmt: skip

PLAN = Command(
    'plan', 'predict memory and work of a config on a TPU slice, without a TPU', 'mixjax.commands.plan:run',
    (
        'mixjax plan --config=configs/xmixup_dogs.py --topology=v5e:4x4',
        'mixjax plan --config=quickstart --topology=cpu:8',
    ),
    (
        CONFIG._replace(help=f'{CONFIG.help}; of a comparison, every method'),
        Flag('topology', 'v4:2x2x2, v5e:4x4, v5p:2x2x1, v6e:8x8: a TPU slice, by libtpu, on a machine without one; '
             'cpu:8: so many virtual devices', 'KIND:SIZE', required=True),
        Flag('json', 'print the tables as JSON'),
        IMPORT,
    ),
    settings=True,
    details='Compiles the training step that a run would have there, and prints the memory of a chip and what it is '
    'taken by, the collectives of a step, its work, and what to change if it does not fit. It needs no TPU, data or '
    'weights: their shapes stand for them, and what is assumed is said. A network such as ResNet-50 takes minutes.',
    exits='Exit codes: 0 it fits (or virtual devices), 1 a program does not fit, 2 wrong input (one message says what '
    'to do).',
)  # fmt: skip

PREPARE = Command(
    'prepare', 'download or unpack a data set and convert it for training', 'mixjax.commands.prepare:run',
    ('mixjax prepare --dataset=cub200',),
    (
        Flag('dataset', 'which one; mixjax train --list names them', 'NAME', required=True),
        Flag('data-dir', 'the folder of all prepared sets ($TFDS_DATA_DIR or ~/tensorflow_datasets)', 'DIR'),
        Flag('archives', 'the folder of files that were fetched by hand (DATA_DIR/downloads/manual)', 'DIR'),
        Flag('skip-corrupt', 'leave images out that cannot be read, and list them, instead of stopping'),
        Flag('allow-counts', 'take a set whose number of examples is not the published one'),
    ),
    details='The set is fetched or taken from the archives, written as records, compared with what was published, and '
    'every image is decoded once. The same command again goes on after a stop and does nothing where all is done.',
    exits='Exit codes: 0 done, 2 wrong input (one message says what to do), 130 interrupted.',
    resume='the same command goes on',
)  # fmt: skip

ANALYSE = Command(
    'analyse', "compute the papers' measures of a finished run", 'mixjax.commands.analyse:run',
    ('mixjax analyse --workdir=runs/quickstart --what=interpolation,spectrum',),
    (
        Flag('workdir', 'the work directory of a finished run, comparison or sweep', 'DIR', required=True),
        Flag('what', 'what to measure, with commas; all is all that can be', 'MEASURES', names, ('all',)),
        Flag('seeds', 'at most so many seeds; 0 for all whose networks are there', 'N', int, 0, least=0),
        Flag('images', 'at most so many images of a part; 0 for all', 'N', int, 1000, least=0),
        Flag('of', 'outputs of the label-IL: probabilities or logits', 'OUTPUTS', choices=('probabilities', 'logits'),
             default='probabilities'),
        Flag('scale', 'of interpolation losses: raw, mean or unit (docs/analysis.md)', 'SCALE',
             choices=('raw', 'mean', 'unit'), default='raw'),
        Flag('lams', 'at how many lam an interpolation loss is taken', 'N', int, 10, least=1),
        Flag('part', 'whose features the spectrum is of: train or test', 'PART', choices=('train', 'test'),
             default='test'),
        Flag('tail', 'how many of the smallest singular values', 'N', int, 10, least=1),
        Flag('classes', 'names of classes, with commas: of cam and plane', 'NAMES', names, ()),
        Flag('auxiliary', 'whose source images are the auxiliary ones of the probe', 'RUN'),
        Flag('per-class', 'source images of a class, for the probe; 0 for all', 'N', int, 50, least=0),
        Flag('probe-steps', "of the probe's training", 'N', int, 1000, least=1),
        Flag('over', 'the setting, or the note of a method, that a sweep is over', 'KEY'),
        IMPORT,
    ),
    check=check_analyse,
    details='Writes analysis.json, and analysis-WHAT.npz with arrays for pictures, into the folder of each run, prints '
    'a table, and writes the report again, which shows them. Of a comparison or a sweep all runs are measured.\n\n'
    '  interpolation  label-IL and feature-IL on labelled and test images\n'
    '                 (SMILE, Table 4)\n'
    '  spectrum       tail singular values of the features (XMixup, Fig. 2)\n'
    '  probe          what the trunk still knows of the source classes\n'
    '                 (XMixup, Table 2)\n'
    '  targets        learned soft labels, and how they evolve (LaMix, Fig. 2 and 3)\n'
    '  cam            class activation maps (LaMix, Fig. 7)\n'
    '  plane          a bottleneck of two units (LaMix, Fig. 8)\n'
    '  curves         loss and accuracy over training (LaMix, Fig. 5)\n'
    '  sweep          accuracy against one number in which runs of a comparison\n'
    '                 differ (XMixup, Fig. 3 and 4; LaMix, Fig. 4 and 6)',
    exits='Exit codes: 0 done, 2 wrong input or nothing of it can be measured (messages say why).',
)  # fmt: skip

MERGE = Command(
    'merge', 'make one network of finished runs, by averages of their weights', 'mixjax.commands.merge:run',
    (
        'mixjax merge runs/a --with=start --share=0,0.1,..,1',
        'mixjax merge runs/a runs/b runs/c',
        'mixjax merge runs/compare --seeds --uniform',
    ),
    (
        Flag('workdir', 'an empty or new folder for the merged network (NAME-merged beside the first run)', 'DIR'),
        Flag('with', 'start: merge one run with the pretrained network that it began from', 'WHAT', choices=('start',)),
        Flag('share', 'with --with=start, the share of the run, from 0 to 1; of several, 0,0.1,..,1, the best on the '
             'validation part is kept', 'SHARES', shares, (0.5,)),
        Flag('uniform', 'the plain mean of all networks, instead of a choice by their validation accuracy'),
        Flag('seeds', 'merge all seeds of the runs, and not only the first of each'),
        Flag('statistics', 'of BatchNorm: recompute takes them from the training images under the merged weights, '
             'average averages them like the weights', 'HOW', choices=('recompute', 'average'), default='recompute'),
        IMPORT,
    ),
    Positional('WORKDIR', 'the work directory of a finished run, or of a comparison or a sweep for all of its runs', 1),
    check=check_merge,
    details='Several networks become a greedy soup: the best on the validation part, and each of the others that does '
    'not lower the accuracy of the mean. Prints the accuracy of each on the validation part, by which the choice is '
    'made, and on the test part, for information. Writes model.safetensors, model.json and merge.json; the folder '
    'serves mixjax predict and config.model.weights as a run does. Runs stay as they are.',
)  # fmt: skip

CALIBRATE = Command(
    'calibrate', 'fit the probabilities of a finished run', 'mixjax.commands.calibrate:run',
    (
        'mixjax calibrate runs/pets',
        'mixjax calibrate runs/pets --folds=5 --unknown',
    ),
    (
        Flag('folds', 'train so many networks as the run was, each without a part of the labelled images, and fit to '
             'what they say of it; without it, to the validation part (config.target.val)', 'N', int, 0, least=2),
        Flag('unknown', 'also set a threshold below which an image is unknown; 5 % of the images of known classes are '
             'then given up'),
        IMPORT,
    ),
    Positional('WORKDIR', 'the work directory of a finished run (of a comparison: RUN/METHOD)', 1, 1),
    details='The logits are divided by a temperature (Guo et al. 2017), so that of the images with a probability of '
    '80 % about 80 in 100 are right. It goes into model.json, which predict and export use; calibration.json and the '
    'report have the calibration error and the Brier score before and after.',
    exits='Exit codes: 0 done, 2 wrong input (one message says what to do).',
    resume=SAME_COMMAND,
)  # fmt: skip

COMPLETION = Command(
    'completion', 'print the completion script for a shell', 'mixjax.commands.completion:run',
    (
        'eval "$(mixjax completion bash)"              # in ~/.bashrc',
        'eval "$(mixjax completion zsh)"               # in ~/.zshrc, after compinit',
        'mixjax completion fish >~/.config/fish/completions/mixjax.fish',
    ),
    (),
    Positional('SHELL', 'bash, zsh or fish', 1, 1, choices=SHELLS),
    details='It completes commands, flags, and the names of shipped configs after --config; elsewhere, files.',
)  # fmt: skip

EVERY = (BEST, TRAIN, PREDICT, SERVE, EXPORT, PUSH, REPORT, GRID, PLAN, PREPARE, ANALYSE, CALIBRATE, MERGE, COMPLETION)
COMMANDS = {command.name: command for command in EVERY}
